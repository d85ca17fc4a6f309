"""A program with workers that print a line once they work, and then work for minutes."""

from __future__ import annotations

import sys

from editkit.cli.signals import Terminated, terminable
from editkit.workers.ray_pool import RayPool
from tests.editkit.workers.benches import Job, ProductRecipe


def main() -> int:
    try:
        with terminable(), RayPool("local", workers=2).opened(ProductRecipe()) as crew:
            for number in range(1000):
                crew.submit(Job(number, action="pause"))
            for i, _ in enumerate(crew.events()):
                if i == 2:
                    sys.stdout.write("working\n")
                    sys.stdout.flush()
    except Terminated:
        return 143
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
