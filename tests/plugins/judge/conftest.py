from tests.editkit.benchmark.conftest import editkit

__all__ = ["editkit"]
