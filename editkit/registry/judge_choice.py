"""Configurations of metrics that ask a judge, which the user chooses by name.

A metric derives its configuration from :class:`JudgeChoice`, makes the judge with ``make_judge(
config.judge, **config.judge_config)``, and names ``{judge_protocol}`` in its protocol. A wrong name
or value is then an error of the metric's field, before a model is loaded, and the key of stored
results has everything that verdicts depend on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationInfo, field_serializer, field_validator

from editkit.errors import PluginError
from editkit.registry.config import config_class
from editkit.registry.plugins import Offer, default_registry
from editkit.registry.specs import JudgeSpec
from editkit.validation import Config

__all__ = ["JudgeChoice"]


class JudgeChoice(Config):
    """A judge and its values: base of the configurations of metrics that ask one."""

    judge: str = "contained"
    """The judge: ``editkit plugins`` lists them."""

    judge_config: Mapping[str, Any] = Field(default_factory=dict)
    """Values of the judge: ``editkit describe JUDGE`` lists its fields. Null drops those that come
    from a file."""

    @field_validator("judge_config", mode="before")
    @classmethod
    def _none_is_empty(cls, values: Any) -> Any:
        return {} if values is None else values

    @field_validator("judge")
    @classmethod
    def _is_offered(cls, name: str) -> str:
        try:
            return _offer(name).name
        except PluginError as error:
            raise ValueError(error.message.removesuffix(".")) from None

    @field_validator("judge_config")
    @classmethod
    def _with_defaults(cls, values: Mapping[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """All values; a wrong one is reported as ``judge_config.FIELD``."""
        if "judge" not in info.data:  # reported already
            return dict(values)
        config = config_class(_offer(info.data["judge"])).model_validate(dict(values))
        return {**config.model_dump(mode="json"), **values}

    @field_serializer("judge_config")
    def _that_count(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values that verdicts depend on: a judge excludes the others."""
        return self._config_of_judge(values).model_dump(mode="json")

    def _config_of_judge(self, values: Mapping[str, Any]) -> Config:
        return config_class(_offer(self.judge)).model_validate(dict(values))

    @property
    def judge_protocol(self) -> str:
        """The judge's protocol, with its values."""
        spec = _offer(self.judge).spec
        protocol = spec.protocol if isinstance(spec, JudgeSpec) else ""
        return protocol.format_map(vars(self._config_of_judge(self.judge_config)))

    def depends_on(self, model_fingerprint: str, name: str) -> Mapping[str, str]:
        """The distribution of the judge, and what its configuration depends on."""
        offer, config = _offer(self.judge), self._config_of_judge(self.judge_config)
        own = config.depends_on(model_fingerprint, self.judge)
        of_config = {f"judge_config.{field}": digest for field, digest in own.items()}
        return {"judge_distribution": str(offer.source), **of_config}


def _offer(name: str) -> Offer:
    return default_registry().get("judge", name)
