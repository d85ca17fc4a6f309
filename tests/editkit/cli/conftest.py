from tests.editkit.benchmark.conftest import editkit, fake_world

__all__ = ["editkit", "fake_world"]
