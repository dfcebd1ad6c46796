"""The committed messages say what `proto/etcd` says; no compiler is needed to know it."""

import re
from pathlib import Path

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from isthmus.wire.etcd import auth_pb2, kv_pb2, rpc_pb2

PROTOS = Path(__file__).parents[3] / "proto" / "etcd"
FIELD = re.compile(r"^\s*(repeated )?([\w.]+) (\w+) = (\d+);", re.MULTILINE)
BLOCK = re.compile(r"^(\s*)(message|enum|oneof|service) (\w+) \{")
SCALARS = {
    "bytes": FieldDescriptor.TYPE_BYTES,
    "string": FieldDescriptor.TYPE_STRING,
    "bool": FieldDescriptor.TYPE_BOOL,
    "int64": FieldDescriptor.TYPE_INT64,
    "uint64": FieldDescriptor.TYPE_UINT64,
}


def declared(name: str) -> dict[str, dict[str, tuple[int, str, bool]]]:
    """Reads top-level messages of a .proto: name -> field -> (number, type, repeated)."""
    messages: dict[str, dict[str, tuple[int, str, bool]]] = {}
    current = ""
    for line in (PROTOS / name).read_text().splitlines():
        if opened := BLOCK.match(line):
            if not opened[1]:
                current = opened[3] if opened[2] == "message" else ""
                if current:
                    messages[current] = {}
        elif (field := FIELD.match(line)) and current:
            messages[current][field[3]] = (int(field[4]), field[2], field[1] is not None)
    return messages


def generated(descriptor: Descriptor) -> dict[str, tuple[int, str, bool]]:
    fields = {}
    for field in descriptor.fields:
        if field.message_type is not None:
            kind = field.message_type.full_name
        elif field.enum_type is not None:
            kind = field.enum_type.name
        else:
            kind = next(word for word, number in SCALARS.items() if number == field.type)
        fields[field.name] = (field.number, kind.removeprefix("etcdserverpb."), field.is_repeated)
    return fields


def test_generated_messages_match_their_source():
    for name, module in (("kv.proto", kv_pb2), ("auth.proto", auth_pb2), ("rpc.proto", rpc_pb2)):
        messages = module.DESCRIPTOR.message_types_by_name
        source = declared(name)
        assert set(source) == set(messages)
        for message, fields in source.items():
            actual = generated(messages[message])
            assert {f: v[0::2] for f, v in actual.items()} == {f: v[0::2] for f, v in fields.items()}, message
            for field, (_, kind, _) in fields.items():
                assert actual[field][1].split(".")[-1] == kind.split(".")[-1], f"{message}.{field}"


def test_the_wire_bytes_are_those_of_etcd():
    """Bytes written out by hand from the etcd v3 API: field numbers 1, 2 and 11, and a negative 64-bit revision."""
    request = rpc_pb2.WatchRequest(
        create_request=rpc_pb2.WatchCreateRequest(key=b"a", range_end=b"b", start_revision=3, fragment=True)
    )
    assert request.SerializeToString() == b"\x0a\x0a\x0a\x01a\x12\x01b\x18\x03\x40\x01"
    response = rpc_pb2.WatchResponse.FromString(b"\x0a\x02\x18\x07\x5a\x08\x08\x01\x12\x04\x0a\x02ab\x28" + b"\x05")
    assert response.header.revision == 7
    assert response.events[0].type == kv_pb2.Event.DELETE
    assert response.events[0].kv.key == b"ab"
    assert response.compact_revision == 5


def test_services_name_the_calls_of_etcd():
    services = rpc_pb2.DESCRIPTOR.services_by_name
    assert set(services) == {"KV", "Watch", "Lease", "Cluster", "Maintenance", "Auth"}
    assert services["KV"].full_name == "etcdserverpb.KV"
