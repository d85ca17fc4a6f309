"""Which stored tensor each parameter of a model is loaded from.

The names in a checkpoint often differ from those of the loaded model: GPT-2's lack the prefix
``transformer.``, the text part of a vision-language model has another, and transformers renames or
fuses weights of some families. The mapping here is the one that transformers computes when it loads
the folder; no weights are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.errors import ModelError
from editkit.models.checkpoint import headers_of, raise_first
from editkit.models.fingerprints import tensor_digests
from editkit.models.loading import (
    in_plain_words,
    incomplete,
    quiet,
    report_of_tensors,
    wrong_types,
)
from editkit.models.text_part import TEXT_NAMES, text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Placement", "placement_of"]


@dataclasses.dataclass(frozen=True, eq=False)
class Placement:
    """How the tensors in a folder become the parameters of the model.

    Attributes:
        model: The model without values, on the meta device.
        stored: The stored tensor that holds a parameter unchanged, by the parameter's name. A tied
            parameter that the checkpoint does not store has no entry.
        built: Parameters that transformers computes from stored tensors: fused or rearranged.
        ties: Groups of parameters that the config ties.
    """

    model: PreTrainedModel
    stored: Mapping[str, str]
    built: frozenset[str]
    ties: tuple[frozenset[str], ...]

    def names_of_weight(self, name: str, folder: Path) -> frozenset[str]:
        """All names of the weight that has this name in the loaded model.

        Transformers ties parameters only if the checkpoint stores one of them, or equal tensors.

        Args:
            name: A parameter.
            folder: The model's folder.

        Raises:
            ModelError: Tied parameters are stored in two types, so that it depends on the type in
                memory whether they are equal.
        """
        names = next((group for group in self.ties if name in group), frozenset({name}))
        stored = [self.stored[each] for each in sorted(names) if each in self.stored]
        if len(stored) < 2:
            return names
        digests = tensor_digests(folder)
        if len({digests[tensor].partition(":")[0] for tensor in stored}) > 1:
            raise ModelError(
                f"the checkpoint stores the tied weights {' and '.join(stored)} in two types.",
                hint="Save the model again with save_pretrained.",
            )
        return names if len({digests[tensor] for tensor in stored}) == 1 else frozenset({name})


def placement_of(folder: Path, shown: str) -> Placement:
    """How transformers loads the tensors in a folder.

    Args:
        folder: A folder without :func:`~editkit.models.checkpoint.problems_of`.
        shown: The model as the user typed it.

    Raises:
        ModelError: The weights are incomplete, or do not fit the config.
    """
    from transformers import AutoConfig
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        rename_source_key,
    )

    headers = headers_of(folder)
    with in_plain_words(shown), quiet():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        text = text_config(config)
        model, report = report_of_tensors(headers, config)
    only_text = text is not config
    raise_first(incomplete(model, report, shown, only_text=only_text))
    raise_first(wrong_types(model, headers, shown))
    expected = model.state_dict()
    mapping = get_model_conversion_mapping(model, dict(TEXT_NAMES) if only_text else None)
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    prefix = model.base_model_prefix
    stored: dict[str, str] = {}
    built: set[str] = set()
    for name in headers:
        target, pattern = rename_source_key(name, renamings, converters, prefix, expected)
        if target not in expected and name in expected:
            target, pattern = rename_source_key(name, [], [], prefix, expected)
        if pattern is not None:
            [converter] = [each for each in converters if pattern in each.source_patterns]
            first, *others = converter.target_patterns
            built |= {target, *(target.replace(first, other) for other in others)}
        elif target in expected:
            if target in stored:
                raise ModelError(
                    f"two tensors of model {shown!r} are loaded into {target}: {stored[target]} "
                    f"and {name}.",
                    hint="Save the model again with save_pretrained.",
                )
            stored[target] = name
    return Placement(model, stored, frozenset(built), _ties(model))


def _ties(model: PreTrainedModel) -> tuple[frozenset[str], ...]:
    groups: dict[str, set[str]] = {}
    for target, source in dict(model.all_tied_weights_keys).items():
        group = groups.setdefault(source, {source})
        group |= {target, *groups.get(target, ())}
        groups |= dict.fromkeys(group, group)
    return tuple({frozenset(group) for group in groups.values()})
