"""Job: until enough succeeded or too many failed, each pod counted once."""

from typing import Any

import pytest
from msgspec import convert, to_builtins
from msgspec.structs import replace

from isthmus.lab.controllers.effects import Create, Delete, Tell
from isthmus.lab.controllers.objects.meta import Meta, stamp
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.objects.workloads import Condition, Job, JobSpec, JobStatus, Uncounted
from isthmus.lab.controllers.workloads.indexes import parse, spell
from isthmus.lab.controllers.workloads.job import INDEX, TRACKING, Plan, expires_in, is_over, plan
from tests.support.clusterobjects import NOW, TEMPLATE, merge, names, pod


def job(status: JobStatus | None = None, **spec: Any) -> Job:
    spec = {"completions": 1, **spec}
    return Job(
        metadata=Meta(name="j", namespace="n", uid="uid-j", resourceVersion="1"),
        spec=JobSpec(template=TEMPLATE, **spec),
        status=status or JobStatus(startTime=stamp(NOW - 10)),
    )


def worker(name: str, phase: str = "Running", *, index: int | None = None, **how: Any) -> Pod:
    annotations = {INDEX: str(index)} if index is not None else {}
    return pod(name, phase=phase, annotations=annotations, finalizers=(TRACKING,), **how)


def step(item: Job, *pods: Pod, now: float = NOW) -> Plan:
    return plan(item, pods, fresh=names(), now=now)


def made(found: Plan) -> list[dict[str, Any]]:
    return [effect.body for effect in found.effects if isinstance(effect, Create)]


def after(item: Job, found: Plan) -> Job:
    """The Job as it is when the status was written."""
    if found.status is None:
        return item
    raw = to_builtins(item)
    merge(raw, to_builtins(found.status.patch))
    return convert(raw, Job)


def conditions(item: Job) -> dict[str, tuple[str, str]]:
    return {one.type: (one.status, one.reason) for one in item.status.conditions}


def test_as_many_pods_as_are_allowed_and_needed() -> None:
    assert len(made(step(job(completions=5, parallelism=3)))) == 3
    almost = JobStatus(startTime=stamp(NOW), succeeded=4)
    assert len(made(step(job(almost, completions=5, parallelism=3)))) == 1
    assert len(made(step(job(completions=5, parallelism=3), worker("a"), worker("b")))) == 1
    (body,) = made(step(job()))
    assert body["metadata"]["finalizers"] == [TRACKING]


def test_a_pod_is_counted_in_three_steps_that_may_be_cut_anywhere() -> None:
    item = job()
    first = step(item, worker("a", "Succeeded"))
    item = after(item, first)
    assert item.status.uncountedTerminatedPods == Uncounted(succeeded=("uid-a",))
    assert item.status.succeeded == 0
    assert [change.name for change in first.finalizers] == ["a"]
    # The process died before the finalizer went: it is asked for again, and nothing is counted.
    again = step(item, worker("a", "Succeeded"))
    assert [change.name for change in again.finalizers] == ["a"]
    item = after(item, again)
    assert item.status.succeeded == 0
    item = after(item, step(item, pod("a", phase="Succeeded")))
    assert item.status.succeeded == 1
    assert item.status.uncountedTerminatedPods == Uncounted()
    # The same if the pod is gone altogether.
    item = after(item, step(item))
    assert item.status.succeeded == 1


def run(item: Job, *pods: Pod) -> Job:
    """Rounds until nothing changes, the pods losing their finalizers as asked."""
    held = {one.metadata.name: one for one in pods}
    for _ in range(10):
        found = step(item, *held.values())
        for change in found.finalizers:
            one = held[change.name]
            held[change.name] = replace(one, metadata=replace(one.metadata, finalizers=()))
        following = after(item, found)
        if following == item and not found.finalizers:
            break
        item = following
    return item


def test_success_is_told_before_and_after_the_last_pod_is_gone() -> None:
    done = run(job(), worker("a", "Succeeded"))
    assert conditions(done) == {
        "SuccessCriteriaMet": ("True", "CompletionsReached"),
        "Complete": ("True", "CompletionsReached"),
    }
    assert done.status.completionTime
    assert (done.status.succeeded, done.status.active) == (1, 0)
    assert is_over(done)
    assert step(done) == Plan()


def test_too_many_failures_end_it_and_what_still_runs() -> None:
    item = job(completions=3, parallelism=2, backoffLimit=0)
    found = step(item, worker("bad", "Failed"), worker("good"))
    assert [effect.name for effect in found.effects if isinstance(effect, Delete)] == ["good"]
    item = after(item, found)
    assert conditions(item) == {"FailureTarget": ("True", "BackoffLimitExceeded")}
    leaving = worker("good", leaving=True)
    item = run(item, worker("bad", "Failed"), leaving)
    assert "Failed" not in conditions(item)
    item = run(item)
    assert conditions(item)["Failed"] == ("True", "BackoffLimitExceeded")
    assert item.status.failed == 2


def test_failures_cost_a_growing_pause() -> None:
    item = job(JobStatus(startTime=stamp(NOW - 99), failed=1))
    raw = to_builtins(worker("a", "Failed"))
    raw["status"]["containerStatuses"] = [{"state": {"terminated": {"finishedAt": stamp(NOW - 4)}}}]
    failed = replace(convert(raw, Pod), metadata=pod("a").metadata)
    found = step(item, failed)
    assert made(found) == []
    assert found.again == pytest.approx(6)
    assert len(made(step(item, failed, now=NOW + 6))) == 1


def test_a_deadline_ends_it() -> None:
    item = job(activeDeadlineSeconds=5)
    assert conditions(after(item, step(item, worker("a")))) == {"FailureTarget": ("True", "DeadlineExceeded")}
    early = step(job(activeDeadlineSeconds=30), worker("a"))
    assert early.again == pytest.approx(20.05)


def test_restarts_in_place_count_against_the_limit() -> None:
    raw = to_builtins(worker("a", restartPolicy="OnFailure"))
    raw["status"]["containerStatuses"] = [{"restartCount": 2}]
    item = job(backoffLimit=2)
    assert "FailureTarget" in conditions(after(item, step(item, convert(raw, Pod))))


def test_suspended_jobs_have_no_pods_and_no_failures() -> None:
    item = job(suspend=True)
    found = step(item, worker("a"))
    assert [change.name for change in found.effects if isinstance(change, Delete)] == ["a"]
    item = after(item, found)
    assert conditions(item) == {"Suspended": ("True", "JobSuspended")}
    assert item.status.failed == 0
    assert item.status.startTime == ""
    resumed = replace(item, spec=replace(item.spec, suspend=False))
    found = step(resumed)
    assert len(made(found)) == 1
    assert conditions(after(resumed, found)) == {"Suspended": ("False", "JobResumed")}
    assert [effect.reason for effect in found.effects if isinstance(effect, Tell)] == ["Resumed"]


def test_indexed_pods_bear_their_index() -> None:
    item = job(completions=3, parallelism=2, completionMode="Indexed")
    found = step(item, worker("a", "Succeeded", index=0), worker("b", index=1))
    (body,) = made(found)
    assert body["metadata"]["annotations"] == {INDEX: "2"}
    assert body["metadata"]["labels"][INDEX] == "2"
    assert body["spec"]["hostname"] == "j-2"
    assert body["spec"]["containers"][0]["env"][0]["name"] == "JOB_COMPLETION_INDEX"
    item = after(item, found)
    assert (item.status.completedIndexes, item.status.succeeded) == ("0", 1)


def test_an_index_that_failed_is_tried_again_and_one_that_succeeded_twice_counts_once() -> None:
    item = job(completions=2, parallelism=2, completionMode="Indexed")
    found = step(item, worker("a", "Succeeded", index=0), worker("a2", "Succeeded", index=0), now=NOW)
    assert [body["metadata"]["labels"][INDEX] for body in made(found)] == ["1"]
    assert after(item, found).status.succeeded == 1


def test_a_job_that_is_over_expires() -> None:
    ended = Condition("Complete", "True", lastTransitionTime=stamp(NOW - 10))
    item = job(JobStatus(conditions=(ended,)), ttlSecondsAfterFinished=30)
    assert expires_in(item, now=NOW) == 20
    assert expires_in(item, now=NOW + 99) == 0
    assert expires_in(job(ttlSecondsAfterFinished=30), now=NOW) is None


def test_spelling_of_indexes() -> None:
    assert spell({0, 1, 2, 5, 7, 8}) == "0-2,5,7,8"
    assert parse("0-2,5,x,9-") == {0, 1, 2, 5, 9}
    assert parse("0-99999999999") == set()
