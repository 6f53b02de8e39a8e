"""Sends forged tunnel packets into a known flow: one case each, named by its payload."""

import json
import sys

from scapy.all import (
    ARP, Dot1Q, Ether, IP, IPOption_NOP, IPv6, Raw, TCP, UDP, conf, fragment, raw, sendp,
)

site = json.load(open(sys.argv[1]))
conf.verb = 0
frames = []
I_FLAG = 8


def inner(name, source=None, destination=None, mac=None, **ip):
    ports = UDP(sport=site["peer_port"], dport=site["port"])
    packet = IP(src=source or site["peer"], dst=destination or site["pod"], ttl=ip.pop("ttl", 64), **ip)
    return Ether(src=site["peer_mac"], dst=mac or site["vtep_mac"]) / packet / ports / Raw(name.encode())


def vxlan(flags=I_FLAG, vni=1, reserved=0, reserved2=0):
    return bytes([flags]) + reserved.to_bytes(3, "big") + vni.to_bytes(3, "big") + bytes([reserved2])


def outer(payload, source=None, header=None, checksum=0):
    ip = IP(src=source or site["peer_outer"], dst=site["node_outer"])
    udp = UDP(sport=50000, dport=8472, chksum=checksum)
    return Ether(src=site["peer_outer_mac"], dst=site["node_mac"]) / ip / udp / Raw((header or vxlan()) + payload)


def send(frame):
    frames.append(frame)


def case(name, source=None, header=None, checksum=0, **how):
    send(outer(raw(inner(name, **how)), source, header, checksum))


case("good: as the peer would")
case("bad: outer source is nobody", source="192.168.9.9")
case("bad: outer source is another node", source=site["other_outer"])
case("bad: outer source is ourselves", source=site["node_outer"])
case("bad: outer source is loopback", source="127.0.0.1")
case("bad: another network identifier", header=vxlan(vni=2))
case("bad: network identifier zero", header=vxlan(vni=0))
case("bad: a network identifier with more bits", header=vxlan(vni=0x800001))
case("bad: no network identifier", header=vxlan(flags=0))
case("bad: group policy", header=vxlan(flags=0x88, reserved=5))
case("bad: a reserved bit", header=vxlan(reserved=1))
case("bad: the last reserved octet", header=vxlan(reserved2=1))
case("bad: another VTEP", mac="02:00:00:00:00:99")
case("bad: broadcast", mac="ff:ff:ff:ff:ff:ff")
case("bad: multicast", mac="01:00:5e:00:00:01")
for name, address in [
    ("the internet", "8.8.8.8"), ("our own pod", site["pod"]), ("another node's pod", site["other"]),
    ("our own node", site["node_outer"]), ("loopback", "127.0.0.1"), ("multicast", "224.0.0.1"),
]:
    send(outer(raw(inner("bad: inner source is " + name, source=address))))
send(outer(raw(inner("bad: inner destination is loopback", destination="127.0.0.1"))))
case("bad: outer checksum", checksum=0x1234)
case("bad: no time to live", ttl=0)
case("bad: its last hop", ttl=1)
case("bad: inner header too short", ihl=4)
case("bad: inner header longer than the packet", ihl=15)
case("bad: inner length longer than the packet", len=400)
case("bad: inner checksum", chksum=0x1234)
case("good: options", options=[IPOption_NOP()])

whole = raw(inner("bad: truncated, and nothing else is wrong"))
for length in range(len(whole)):
    send(outer(whole[:length]))
    # Lengths outside right, or of what was there before.
    cut = raw(outer(whole))[: 14 + 36 + length]
    send(Ether(cut))
for length in range(14, 50):
    send(Raw(raw(outer(whole))[:length]))

pieces = fragment(inner("good: inner fragments" + "." * 64)[IP], fragsize=40)
for piece in pieces:
    send(outer(raw(Ether(src=site["peer_mac"], dst=site["vtep_mac"]) / piece)))
overlapping = fragment(inner("bad: inner fragments overlap" + "." * 64, id=77)[IP], fragsize=40)
overlapping[1].frag -= 2
for piece in overlapping:
    send(outer(raw(Ether(src=site["peer_mac"], dst=site["vtep_mac"]) / piece)))
for piece in fragment(outer(raw(inner("good: outer fragments" + "." * 64)))[IP], fragsize=64):
    send(Ether(src=site["peer_outer_mac"], dst=site["node_mac"]) / piece)
overlapping = fragment(outer(raw(inner("bad: outer fragments overlap" + "." * 64)))[IP], fragsize=64)
overlapping[1].frag -= 2
for piece in overlapping:
    piece.id = 78
    send(Ether(src=site["peer_outer_mac"], dst=site["node_mac"]) / piece)

frame = inner("bad: VLAN inside")
send(outer(raw(Ether(src=frame.src, dst=frame.dst) / Dot1Q(vlan=5) / frame[IP])))
send(outer(raw(Ether(src=frame.src, dst=frame.dst) / Dot1Q(vlan=5) / Dot1Q(vlan=6) / frame[IP])))
send(outer(raw(Ether(src=frame.src, dst=frame.dst) / ARP(op=2, psrc=site["peer"], pdst=site["pod"]))))
send(outer(raw(Ether(src=frame.src, dst=frame.dst, type=0x86DD) / raw(frame[IP]))))
send(outer(raw(Ether(src=frame.src, dst=frame.dst) / IPv6(plen=65535, nh=0) / Raw(b"\x00" * 80))))
for flags in ["S", "F", "R", "SF", "FPU"]:
    reset = IP(src=site["peer"], dst=site["pod"]) / TCP(sport=site["port"], dport=site["tcp_port"], flags=flags)
    send(outer(raw(Ether(src=site["peer_mac"], dst=site["vtep_mac"]) / reset), source="192.168.9.9"))
case("good: the last")

sendp(frames, iface=site["interface"])
