"""Everything that talks to the kernel: libnftables, netlink, network namespaces, links."""
