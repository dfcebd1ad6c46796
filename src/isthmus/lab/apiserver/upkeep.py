"""What the server makes and keeps by itself: the first namespaces, the `kubernetes` Service, and the end of old
events.

Everything is done with the same transactions as requests, so rules, versions and watches are the same.
"""

import asyncio
import functools

import structlog

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.changes import deletion
from isthmus.lab.apiserver.changes.calls import Call
from isthmus.lab.apiserver.changes.lifecycle import Lifecycle
from isthmus.lab.apiserver.columns.text import seconds_since
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.schema.kinds import Resource
from isthmus.lab.apiserver.storage.state import State, Transaction, decode
from isthmus.lab.apiserver.strategies.disruption import SYSTEM_CLASSES
from isthmus.lab.apiserver.strategies.families import first_address
from isthmus.lab.apiserver.strategies.namespace import INITIAL

MANAGER = "kube-apiserver"
SWEEP_INTERVAL = 60.0  # seconds
SWEEP_SIZE = 500  # objects removed in one transaction

_log = structlog.get_logger(__name__)


def _ensure(life: Lifecycle, transaction: Transaction, resource: Resource, value: Json) -> None:
    """Creates an object, or gives an existing one the same content."""
    metadata = value["metadata"]
    call = Call(resource=resource, namespace=metadata.get("namespace", ""), name=metadata["name"], manager=MANAGER)
    stored = transaction.get(resource, namespace=call.namespace, name=call.name)
    if stored is None:
        life.create(transaction, call, value)
        return
    old = decode(resource, stored)
    merged = {**decode(resource, stored), **{key: item for key, item in value.items() if key != "metadata"}}
    life.update(transaction, call, merged, old=old)


async def bootstrap(state: State, life: Lifecycle, *, advertised: tuple[str, int] | None) -> None:
    """Creates what a cluster begins with; raises ApiError if the store fails."""
    registry = life.registry

    def namespaces(transaction: Transaction) -> None:
        resource = registry.get("namespaces")
        for name in INITIAL:
            if transaction.get(resource, namespace="", name=name) is None:
                call = Call(resource=resource, name=name, manager=MANAGER)
                life.create(transaction, call, {"metadata": {"name": name}})

    def service(transaction: Transaction) -> None:
        labels = {"component": "apiserver", "provider": "kubernetes"}
        place = {"name": "kubernetes", "namespace": "default"}
        ports = [{"name": "https", "port": 443, "targetPort": advertised[1] if advertised else 6443}]
        spec = {"clusterIP": first_address(life.settings.service_networks[0]), "ports": ports}
        resource = registry.get("services")
        if transaction.get(resource, namespace="default", name="kubernetes") is None:
            call = Call(resource=resource, namespace="default", name="kubernetes", manager=MANAGER)
            life.create(transaction, call, {"metadata": {**place, "labels": labels}, "spec": spec})
        if advertised is None:
            return
        host, port = advertised
        subset = {"addresses": [{"ip": host}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}
        skip = {"endpointslice.kubernetes.io/skip-mirror": "true"}
        points: Json = {"metadata": {**place, "labels": dict(skip)}, "subsets": [subset]}
        _ensure(life, transaction, registry.get("endpoints"), points)
        slice_: Json = {
            "metadata": {**place, "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv6" if ":" in host else "IPv4",
            "endpoints": [{"addresses": [host], "conditions": {"ready": True}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }
        _ensure(life, transaction, registry.get("endpointslices", "discovery.k8s.io"), slice_)

    def classes(transaction: Transaction) -> None:
        resource = registry.get("priorityclasses", "scheduling.k8s.io")
        for name, number in SYSTEM_CLASSES.items():
            if transaction.get(resource, namespace="", name=name) is None:
                text = f"Used for pods that must not be evicted before all others: {name}."
                call = Call(resource=resource, name=name, manager=MANAGER)
                life.create(transaction, call, {"metadata": {"name": name}, "value": number, "description": text})

    await state.write(namespaces)
    await state.write(classes)
    if life.settings.service_networks:
        await state.write(service)


async def sweep_for_ever(state: State, life: Lifecycle) -> None:
    """Removes objects that have outlived their kind's `ttl`."""
    while True:
        await asyncio.sleep(SWEEP_INTERVAL)
        try:
            await sweep(state, life)
        except errors.ApiError as failure:
            _log.warning("sweep_failed", error=failure.message)


async def sweep(state: State, life: Lifecycle) -> int:
    """Removes what has outlived its `ttl` now, at most SWEEP_SIZE objects a kind; returns how many."""
    removed = 0
    for resource in life.registry:
        if resource.ttl:
            removed += await state.write(functools.partial(_sweep, life, resource))
    return removed


def _sweep(life: Lifecycle, resource: Resource, transaction: Transaction) -> int:
    removed = 0
    options = deletion.Options(grace=0)
    for stored in list(transaction.all(resource)):
        metadata = decode(resource, stored)["metadata"]
        times = [metadata.get("creationTimestamp")]
        times += [entry.get("time") for entry in metadata.get("managedFields", ())]
        ages = [seconds for text in times if (seconds := seconds_since(text, life.source.now())) is not None]
        if ages and min(ages) > resource.ttl:
            call = Call(resource=resource, namespace=stored.namespace, name=stored.name, manager=MANAGER)
            deletion.delete(life, transaction, call, options)
            removed += 1
            if removed >= SWEEP_SIZE:
                break
    return removed
