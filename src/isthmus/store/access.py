"""Who may read a store: etcd's users and roles, by client certificate, as Cilium sets them up.

Only `root` writes. A peer cluster (`remote`) sees what is this cluster's own, its services among it; a client of our
own cluster (`local`) sees all that was mirrored too, and how fresh that is. Both see our epoch. Idempotent: run at
every start, before auth is switched on for the first time and after; a role's permissions are brought to what is
wanted, so a renamed cluster leaves nothing open.
"""

from collections.abc import Sequence
from typing import Any

from isthmus.store.client import Client
from isthmus.store.contract import prefix_end
from isthmus.store.errors import Refused
from isthmus.wire import kvstore
from isthmus.wire.etcd import auth_pb2 as auth
from isthmus.wire.etcd import rpc_pb2 as rpc

ROOT = "root"
REMOTE = "remote"
LOCAL = "local"
ROLES = (REMOTE, LOCAL)
AGENT = "isthmus-agent"
"""What the certificates of our agents are called, before the cluster's name."""


def ranges_of(role: str, *, cluster: str) -> tuple[tuple[bytes, bytes], ...]:
    """The key ranges (first key, first key after) that a role may read; an empty end means one key."""
    own = kvstore.config_key(cluster)
    synced = kvstore.SYNCED + cluster.encode() + b"/"
    if role == LOCAL:
        return ((kvstore.EPOCH, b""), (kvstore.ROOT, prefix_end(kvstore.ROOT)))
    return (
        (kvstore.EPOCH, b""),
        (kvstore.HEARTBEAT, b""),
        (own, b""),
        (kvstore.STATE, prefix_end(kvstore.STATE)),
        (synced, prefix_end(synced)),
    )


async def ensure_access(client: Client, *, cluster: str, users: Sequence[tuple[str, str]] = ()) -> None:
    """Makes roles and users as they should be and switches authentication on.

    `users` are pairs of certificate name and role, beside `remote`, `local`, `local-<cluster>` and
    `isthmus-agent:<cluster>`. Raises Refused for an unknown role.
    """
    for role in ROLES:
        await _ensure_role(client, role, ranges_of(role, cluster=cluster))
    await _ignoring("already exists", client, "RoleAdd", rpc.AuthRoleAddRequest(name=ROOT), rpc.AuthRoleAddResponse)
    known = {ROOT: ROOT, REMOTE: REMOTE, LOCAL: LOCAL, f"{LOCAL}-{cluster}": LOCAL, f"{AGENT}:{cluster}": LOCAL}
    wanted = {**known, **dict(users)}
    for user, role in wanted.items():
        if role not in (ROOT, *ROLES):
            raise Refused(f"user {user!r}: role {role!r} is not one of {', '.join(ROLES)}")
        await _ensure_user(client, user, role)
    listed = await client.ask_auth("UserList", rpc.AuthUserListRequest(), rpc.AuthUserListResponse)
    for user in set(listed.users) - set(wanted):
        await client.ask_auth("UserDelete", rpc.AuthUserDeleteRequest(name=user), rpc.AuthUserDeleteResponse)
    await client.ask_auth("AuthEnable", rpc.AuthEnableRequest(), rpc.AuthEnableResponse)


async def _ensure_role(client: Client, role: str, ranges: Sequence[tuple[bytes, bytes]]) -> None:
    await _ignoring("already exists", client, "RoleAdd", rpc.AuthRoleAddRequest(name=role), rpc.AuthRoleAddResponse)
    found = await client.ask_auth("RoleGet", rpc.AuthRoleGetRequest(role=role), rpc.AuthRoleGetResponse)
    has = {(p.key, p.range_end): p.permType for p in found.perm}
    for key, end in ranges:
        if has.pop((key, end), None) != auth.Permission.READ:
            grant = rpc.AuthRoleGrantPermissionRequest(
                name=role, perm=auth.Permission(permType=auth.Permission.READ, key=key, range_end=end)
            )
            await client.ask_auth("RoleGrantPermission", grant, rpc.AuthRoleGrantPermissionResponse)
    for key, end in has:
        revoke = rpc.AuthRoleRevokePermissionRequest(role=role, key=key, range_end=end)
        await client.ask_auth("RoleRevokePermission", revoke, rpc.AuthRoleRevokePermissionResponse)


async def _ensure_user(client: Client, user: str, role: str) -> None:
    add = rpc.AuthUserAddRequest(name=user, options=auth.UserAddOptions(no_password=True))
    await _ignoring("already exists", client, "UserAdd", add, rpc.AuthUserAddResponse)
    found = await client.ask_auth("UserGet", rpc.AuthUserGetRequest(name=user), rpc.AuthUserGetResponse)
    if list(found.roles) == [role]:
        return
    if found.roles:
        # A user whose role changed starts anew: taking roles away one by one would be a second code path.
        await client.ask_auth("UserDelete", rpc.AuthUserDeleteRequest(name=user), rpc.AuthUserDeleteResponse)
        await client.ask_auth("UserAdd", add, rpc.AuthUserAddResponse)
    grant = rpc.AuthUserGrantRoleRequest(user=user, role=role)
    await client.ask_auth("UserGrantRole", grant, rpc.AuthUserGrantRoleResponse)


async def _ignoring(text: str, client: Client, name: str, request: Any, response: type[Any]) -> None:
    try:
        await client.ask_auth(name, request, response)
    except Refused as error:
        if text not in str(error):
            raise
