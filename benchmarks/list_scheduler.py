"""A list scheduler: when the jobs of a queue start and end on so many GPUs and CPU cores."""

import heapq
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """A job of a queue.

    Attributes:
        name: of the job.
        array: the jobs of an array of which at most `parallel` run at once.
        hours: how long it runs.
        gpus, cpus: what it holds while it runs.
        after: names of the jobs that must have ended.
    """

    name: str
    array: str
    hours: float
    gpus: int
    cpus: int
    after: tuple[str, ...] = ()
    parallel: int = 10**9


def schedule(jobs, gpus, cpus):
    """Returns start and end of every job, in hours, by name.

    Whenever a job ends, the queue is gone through from its front, and what may start and finds room starts. GPUs and
    cores are one pool: that they belong to machines is left out.

    Args:
        jobs: in the order in which they were submitted.
        gpus, cpus: of the cluster.

    Raises:
        ValueError: if a job never can start.
    """
    waiting, running, times = list(jobs), [], {}
    ended, at_once = set(), Counter()
    now = 0.0
    while waiting:
        still = []
        for job in waiting:
            if (
                job.gpus <= gpus
                and job.cpus <= cpus
                and at_once[job.array] < job.parallel
                and ended.issuperset(job.after)
            ):
                gpus, cpus = gpus - job.gpus, cpus - job.cpus
                at_once[job.array] += 1
                times[job.name] = (now, now + job.hours)
                heapq.heappush(running, (now + job.hours, len(times), job))
            else:
                still.append(job)
        waiting = still
        if waiting and not running:
            raise ValueError(f"{waiting[0].name} and {len(waiting) - 1} others never start: too large, or in a circle")
        # All that end at the next moment at which one ends.
        now = running[0][0] if running else now
        while running and running[0][0] == now:
            _, _, job = heapq.heappop(running)
            gpus, cpus = gpus + job.gpus, cpus + job.cpus
            at_once[job.array] -= 1
            ended.add(job.name)
    return times


def critical_path(jobs):
    """Returns the hours of the longest chain of jobs that wait for each other, which no number of GPUs shortens."""
    by_name, end = {job.name: job for job in jobs}, {}

    def end_of(name):
        if name not in end:
            job = by_name[name]
            end[name] = job.hours + max(map(end_of, job.after), default=0.0)
        return end[name]

    return max(map(end_of, by_name))


def gpu_hours(jobs):
    """Returns the hours that the jobs hold GPUs."""
    return sum(job.hours * job.gpus for job in jobs)
