#!/bin/busybox sh
# The first process of the guest: two nodes in namespaces with one pod each. Tells what it saw in lines `result KEY VALUE`.
/bin/busybox --install -s /bin
export PATH=/x:/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /run
mount -t bpf none /sys/fs/bpf
mkdir -p /run/netns
while read -r module; do insmod "/mods/$module"; done </mods/order
store=http://192.168.0.1:2379

# The shell would take its own.
ip() { /x/ip "$@"; }
result() { echo "result $*"; }
inside() {
    namespace=$1
    shift
    /x/nsenter --net=/run/netns/"$namespace" -- "$@"
}
# until SECONDS COMMAND...
until_true() {
    left=$(($1 * 5))
    shift
    while ! "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || return 1
        sleep 0.2
    done
}
daemon() {
    inside n"$1" /x/flannel-ctl run --etcd-endpoints $store --iface eth0 --ip-masq --run-dir /run/f"$1" --state-dir /run/s"$1" \
        --bpf-dir /sys/fs/bpf/f"$1" --node-name n"$1" >>/run/d"$1".log 2>&1 &
}
converged() { inside n"$1" /x/flannel-ctl status --run-dir /run/f"$1"; }
device_packets() { inside n1 cat /proc/net/dev | awk '/flannel.1:/ {print $3 + $11}'; }
counters() { /x/bpftool -j map dump pinned /sys/fs/bpf/f1/maps-v*/COUNTERS 2>/dev/null; }
arrived() { [ "$(stat -c %s /run/got)" = "$(stat -c %s /run/payload)" ]; }
half() { [ "$(stat -c %s /run/got)" -gt "$(($(stat -c %s /run/payload) / 3))" ]; }

result kernel "$(uname -r)"
ip link set lo up
for namespace in n1 n2 p1 p2; do
    ip netns add $namespace
    ip -n $namespace link set lo up
done
ip link add u1 netns n1 type veth peer name u2 netns n2
for node in 1 2; do
    ip -n n$node link set u$node name eth0
    ip -n n$node address add 192.168.0.$node/24 dev eth0
    ip -n n$node link set eth0 up
    inside n$node sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
done
inside n1 /x/flannel-ctl store --listen 192.168.0.1:2379 --data /run/store.redb >/run/store.log 2>&1 &
echo '{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}' >/run/net.json
until_true 20 inside n1 /x/flannel-ctl config publish /run/net.json --etcd-endpoints $store
daemon 1
daemon 2
until_true 60 converged 1
until_true 60 converged 2
if ! [ -e /run/f1/subnet.env ] || ! [ -e /run/f2/subnet.env ]; then
    cat /run/store.log /run/d1.log /run/d2.log
    poweroff -f
fi
for node in 1 2; do
    . /run/f$node/subnet.env
    base=${FLANNEL_SUBNET%.1/24}
    ip -n n$node link add cni0 mtu "$FLANNEL_MTU" type bridge
    ip -n n$node address add "$FLANNEL_SUBNET" dev cni0
    ip -n n$node link set cni0 up
    ip -n n$node link add v0 mtu "$FLANNEL_MTU" type veth peer name eth0 mtu "$FLANNEL_MTU" netns p$node
    ip -n n$node link set v0 master cni0 up
    ip -n p$node link set eth0 up
    ip -n p$node address add "$base.2/24" dev eth0
    ip -n p$node route add default via "$base.1"
    eval "pod$node=$base.2"
done
until_true 30 inside p1 ping -c 1 -W 1 "$pod2"
result ping "$(inside p1 ping -c 20 -i 0.1 "$pod2" | grep received)"
until_true 30 converged 1
result status "$(inside n1 /x/flannel-ctl status --run-dir /run/f1 --output json | tr -d '\n')"

# A transfer that outlives a daemon.
dd if=/dev/urandom of=/run/payload bs=1M count=16 2>/dev/null
result device-before "$(device_packets)"
sleep 600 | inside p2 nc -l -p 9000 >/run/got &
until_true 20 inside p2 sh -c 'netstat -ltn | grep 9000'
inside p1 nc "$pod2" 9000 </run/payload &
until_true 60 half
kill -9 "$(cat /run/f1/lock)"
daemon 1
until_true 120 arrived
until_true 60 converged 1
[ "$(sha1sum </run/payload)" = "$(sha1sum </run/got)" ] && result payload same || result payload differs
result device-after "$(device_packets)"
result counters "$(counters)"
result mended "$(cat /run/d1.log /run/d2.log | grep -c 'mending')"
result failed "$(cat /run/d1.log /run/d2.log | grep -c 'ERROR')"
grep -h 'ERROR\|WARN' /run/d1.log /run/d2.log | head -20

kill "$(cat /run/f1/lock)"
until_true 20 inside n1 /x/flannel-ctl cleanup --run-dir /run/f1 --state-dir /run/s1 --bpf-dir /sys/fs/bpf/f1
left=$(for device in eth0 v0; do
    for hook in ingress egress; do inside n1 tc filter show dev $device $hook; done
    inside n1 tc qdisc show dev $device clsact
done | grep -c .)
[ -e /sys/fs/bpf/f1 ] && left=$((left + 1))
result left "$left"
result end
poweroff -f
