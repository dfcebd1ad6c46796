"""Codecs for bytes from outside: netlink attributes, KVStore values, etcd messages. Pure."""
