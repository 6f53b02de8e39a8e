#!/bin/sh
# initramfs.sh KERNEL-DIRECTORY FLANNEL-CTL INIT ROOT TUNNEL: a root file system in ROOT, and ROOT.img. TUNNEL is the module that
# tunnels are made of: vxlan, or tun.
set -eu
kernel=$1/x binary=$2 init=$3 root=$4 tunnel=$5
mkdir -p "$root/bin" "$root/x" "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/var/lib" "$root/mods" "$root/tmp"
cp "$(command -v busybox)" "$root/bin/busybox"
cp "$init" "$root/init"
chmod 755 "$root/init"
# Programs with the libraries that they are linked to.
for program in ip tc bpftool nft nsenter "$binary"; do
    path=$(command -v "$program")
    cp -L "$path" "$root/x/$(basename "$program")"
    ldd "$path" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done
done
strip "$root/x/flannel-ctl" 2>/dev/null || true
version=$(ls "$kernel/lib/modules")
depmod -b "$kernel" "$version"
: >"$root/mods/order"
for module in veth "$tunnel" bridge sch_ingress cls_bpf cls_u32 nf_conntrack nf_tables nft_ct nft_nat nft_masq nft_chain_nat \
    nft_counter nft_objref nft_fib_inet nft_limit; do
    modprobe -d "$kernel" -S "$version" --show-depends "$module" 2>/dev/null | sed -n 's/^insmod \([^ ]*\).*/\1/p' |
        while read -r file; do
            name=$(basename "${file%.xz}")
            grep -qx "$name" "$root/mods/order" && continue
            case $file in
            *.xz) xz -dc "$file" >"$root/mods/$name" ;;
            *) cp "$file" "$root/mods/$name" ;;
            esac
            echo "$name" >>"$root/mods/order"
        done
done
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$root.img"
