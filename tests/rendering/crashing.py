"""A worker that a job can take down: what a fault in a driver or the kernel's memory killer do."""

import os

from studio.rendering import engines
from studio.rendering.worker import Models

RUN = engines._run


def run(options, answers):
    """As the engine's own, but a job with the prompt "poison" kills the process."""
    make = Models.make

    def make_or_die(self, jobs):
        if any(job.request.prompt == "poison" for job in jobs):
            os.kill(os.getpid(), 9)
        return make(self, jobs)

    Models.make = make_or_die
    RUN(options, answers)


def die(options, answers):
    """Does nothing else."""
    os.kill(os.getpid(), 9)
