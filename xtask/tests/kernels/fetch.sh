#!/bin/sh
# fetch.sh SERIES DIRECTORY: a Debian kernel of that series, unpacked below DIRECTORY. Exit code 3: no mirror has one.
set -eu
series=$1 dir=$2
[ ! -e "$dir/done" ] || exit 0
rm -rf "$dir"
mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/x"
newest() {
    apt-cache "$@" search --names-only "^linux-image-$series\\.[0-9.+deb-]*-cloud-amd64\$" | cut -d' ' -f1 | sort -V | tail -1
}
options=
name=$(newest)
if [ -z "$name" ]; then
    # An older release than this machine's sources have.
    key=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$key] http://deb.debian.org/debian-security bullseye-security main" >"$dir/sources.list"
    options="-o Dir::Etc::sourcelist=$dir/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$dir/lists"
    options="$options -o Dir::Cache=$dir/cache"
    apt-get $options -qq update
    name=$(newest $options)
fi
[ -n "$name" ] || exit 3
cd "$dir"
apt-get $options -qq download "$name"
dpkg -x "$name"_*.deb x
rm -rf lists cache ./*.deb
touch done
