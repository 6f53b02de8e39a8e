"""flannel's udp backend as its proxy does it: a packet a call, blocking, raw IPv4 in UDP, one off the TTL on each side.

usage: flannel_udp.py OUR_ADDRESS PORT TUNNEL_ADDRESS NETWORK SUBNET=PUBLIC...
"""

import fcntl
import ipaddress
import os
import select
import socket
import struct
import subprocess
import sys

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000

local, port, inner, network, *peers = sys.argv[1:]
routes = [(ipaddress.ip_network(net), public) for net, public in (peer.split("=") for peer in peers)]
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", b"flannel%d", IFF_TUN | IFF_NO_PI))
for line in (f"addr add {inner}/32 dev flannel0", "link set flannel0 mtu 1472 up", f"route add {network} dev flannel0"):
    subprocess.check_call(["ip", *line.split()])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind((local, int(port)))
print("ready", flush=True)


def aged(packet):
    """One off the time to live, the checksum patched as RFC 1624 has it; None at its end."""
    packet = bytearray(packet)
    if packet[8] <= 1:
        return None
    packet[8] -= 1
    total = int.from_bytes(packet[10:12], "big") + 0x0100
    packet[10:12] = ((total & 0xFFFF) + (total >> 16)).to_bytes(2, "big")
    return bytes(packet)


while True:
    ready, _, _ = select.select([tun, udp], [], [])
    if tun in ready:
        packet = os.read(tun, 1472)
        if packet[0] >> 4 == 4 and (packet := aged(packet)):
            to = ipaddress.ip_address(packet[16:20])
            for net, public in routes:
                if to in net:
                    udp.sendto(packet, (public, int(port)))
    if udp in ready:
        packet = aged(udp.recv(1472))
        if packet:
            os.write(tun, packet)
