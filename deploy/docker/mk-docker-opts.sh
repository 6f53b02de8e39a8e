#!/bin/sh
# Turns subnet.env into options for Docker. The command line and the file written are those that users of
# flannel's script of this name have in their units.
set -eu

usage() {
    cat >&2 <<EOF
usage: $0 [-f FILE] [-d FILE] [-i] [-c] [-k NAME] [-m]

  -f FILE  what the agent wrote (default: /run/flannel/subnet.env)
  -d FILE  what to write (default: /run/docker_opts.env)
  -i       one variable per option, DOCKER_OPT_*
  -c       all options in one variable; neither -i nor -c means both
  -k NAME  the name of that variable (default: DOCKER_OPTS)
  -m       leave --ip-masq out
EOF
    exit 1
}

subnet_file=/run/flannel/subnet.env
output=/run/docker_opts.env
individual=
combined=
combined_name=DOCKER_OPTS
masquerade=yes

while getopts f:d:ick:mh option; do
    case $option in
        f) subnet_file=$OPTARG ;;
        d) output=$OPTARG ;;
        i) individual=yes ;;
        c) combined=yes ;;
        k) combined_name=$OPTARG ;;
        m) masquerade= ;;
        *) usage ;;
    esac
done
if [ -z "$individual$combined" ]; then
    individual=yes
    combined=yes
fi

if [ -f "$subnet_file" ]; then
    # shellcheck source=/dev/null
    . "$subnet_file"
fi

[ -z "${FLANNEL_SUBNET:-}" ] || DOCKER_OPT_BIP="--bip=$FLANNEL_SUBNET"
[ -z "${FLANNEL_MTU:-}" ] || DOCKER_OPT_MTU="--mtu=$FLANNEL_MTU"
if [ -n "$masquerade" ] && [ -n "${FLANNEL_IPMASQ:-}" ]; then
    # One of the two masquerades, never both.
    case $FLANNEL_IPMASQ in
        true) DOCKER_OPT_IPMASQ=--ip-masq=false ;;
        false) DOCKER_OPT_IPMASQ=--ip-masq=true ;;
        *)
            echo "$0: FLANNEL_IPMASQ is '$FLANNEL_IPMASQ' in $subnet_file: expected true or false" >&2
            exit 1
            ;;
    esac
fi

# Those of the environment count too, in the order of their names.
names=$(set | sed -n 's/^\(DOCKER_OPT_[A-Z0-9_]*\)=.*/\1/p' | sort)
together=
: >"$output"
for name in $names; do
    eval "value=\$$name"
    together="$together $value"
    [ -z "$individual" ] || printf '%s="%s"\n' "$name" "$value" >>"$output"
done
[ -z "$combined" ] || printf '%s="%s"\n' "$combined_name" "$together" >>"$output"

# Docker would give addresses out that another node's containers already have.
if [ -n "${FLANNEL_SUBNET:-}" ] && command -v ip >/dev/null 2>&1; then
    if ip -4 route show "$FLANNEL_SUBNET" 2>/dev/null | grep -q ' via '; then
        echo "$0: a route sends $FLANNEL_SUBNET, this node's own subnet, elsewhere: remove it first" >&2
        exit 1
    fi
fi
