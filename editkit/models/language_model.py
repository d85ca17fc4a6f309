"""A language model with its tokenizer, its architecture, and an identity."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import operator
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editkit.errors import ModelError
from editkit.models.architectures import PARTS, Architecture, Part
from editkit.models.encoding import check_vocabulary
from editkit.models.fingerprints import VOLATILE, fingerprint_of_folder, legacy_fingerprint
from editkit.models.foreign import foreign_family
from editkit.models.lookup import architecture_of
from editkit.models.reading import TextReader
from editkit.models.shape import context_length_of, longest_input_of
from editkit.models.text_part import WRAPPERS
from editkit.models.weights import Weights
from editkit.reprs import counted, html_table, notebook_html, rounded, summary
from editkit.storage.digests import blake2b_of, digest_of_tensors, sha256_of

__all__ = [
    "check_live",
    "check_tokenizer",
]

_FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_MERGE = "Merge it first: model = model.merge_and_unload()."
_LOGITS = 4096  # logits per state in memory at once
_log = logging.getLogger(__name__)


class LanguageModel(TextReader):
    """A causal language model with its tokenizer, its architecture and its identity.

    Args:
        hf: The model of transformers; put into evaluation mode.
        tokenizer: Its fast tokenizer.
        name: Its name in messages and results.
        revision: Revision of a hub model.
        fingerprint: Digest of weights, config and tokenizer; None: computed from what is in memory.
        source: What the user typed to load it, for commands and hints; None: not loaded by name.
        folder: The folder that it was loaded from.

    Raises:
        ModelError: The model is not a causal language model of a known family; it is wrapped, has
            adapters, is quantised, or has a value that is not finite; or the tokenizer gives no
            offsets, or token ids beyond the embedding.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        revision: str | None = None,
        fingerprint: str | None = None,
        source: str | None = None,
        folder: Path | None = None,
    ) -> None:
        check_live(hf, name)
        check_tokenizer(tokenizer, name)
        rows = int(hf.get_input_embeddings().weight.shape[0])
        check_vocabulary(tokenizer, rows, name=name)
        self.hf = hf.eval()
        super().__init__(tokenizer, name=name)
        self.revision = revision
        self.source = source
        self.architecture: Architecture = architecture_of(hf.config)
        self._folder, self._loaded = folder, fingerprint
        self._legacy: str | None = None
        self.weights = Weights(
            lambda: self.hf,
            name=name,
            fingerprint=fingerprint,
            surroundings=self._surroundings,
            settings=self._settings,
        )
        longest = longest_input_of(hf.config)
        if self.context_length < longest:
            _log.warning(
                "texts for %s are limited to %d of its %d tokens: with longer texts, longrope "
                "changes the frequencies of the whole batch, so results would depend on the batch",
                name,
                self.context_length,
                longest,
            )

    # ------------------------------------------------------------ identity and shape

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the model as it is now: weights, config and tokenizer.

        With edits applied, it is derived from the base's fingerprint and the edits in their order.
        After other changes in memory (weights, modules, config, tokenizer), it is recomputed.
        Every access reads all weights (about 0.12 s per GB on one core): in a loop, ask once.

        Raises:
            ModelError: The weights were changed in memory and are not finite.
        """
        return self.weights.identity()

    @property
    def base_fingerprint(self) -> str:
        """The fingerprint of the model without its applied edits.

        Cheap if nothing changed since the last look at the weights. Writes through ``.data`` are
        noticed only by :attr:`fingerprint`: read it first where those can have happened.
        """
        return self.weights.base(look=False)

    @contextlib.contextmanager
    def unedited(self) -> Iterator[LanguageModel]:
        """Restore the original weights inside the block, bit for bit; its end applies the edits.

        For what belongs to the base model in a sequence of edits, such as a corpus statistic.
        Inside, :attr:`fingerprint` equals :attr:`base_fingerprint`, and edits can be applied. The
        edits return at the end of the block, also after an exception, in their order; an edit that
        ended inside does not. Without applied edits, the block changes nothing.

        Raises:
            DeltaError: Another thread has edits applied to the model; or weights were changed by
                other means while edits are applied.
        """
        with self.weights.suspended():
            yield self

    @property
    def legacy_fingerprint(self) -> str | None:
        """The fingerprint of the loaded files in earlier versions of editkit.

        None if the files are not known or do not match the weights in memory.
        """
        if self._folder is None or self.base_fingerprint != self._loaded:
            return None
        if self._legacy is None:
            try:
                same = fingerprint_of_folder(self._folder) == self._loaded
                self._legacy = legacy_fingerprint(self._folder) if same else ""
            except (ModelError, OSError):  # the folder is gone
                self._legacy = ""
        return self._legacy or None

    def __deepcopy__(self, memo: dict[int, Any]) -> LanguageModel:
        """A model with its own weights, in which applied edits are permanent."""
        return LanguageModel(
            copy.deepcopy(self.hf, memo),
            copy.deepcopy(self.tokenizer, memo),
            name=self.name,
            revision=self.revision,
            fingerprint=None if self.weights.is_edited else self.fingerprint,
            source=self.source,
            folder=self._folder,
        )

    def __copy__(self) -> LanguageModel:
        """A model that shares weights and edits with this one."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __getstate__(self) -> Any:
        """Refuse pickles.

        Raises:
            ModelError: Always.
        """
        raise ModelError(
            f"{self.name} cannot be pickled or sent to another process.",
            hint="Load it there by its name or folder. A model in memory only: save it first with "
            "model.hf.save_pretrained(FOLDER) and model.tokenizer.save_pretrained(FOLDER).",
        )

    def _config(self) -> dict[str, Any]:
        return {k: v for k, v in self.hf.config.to_dict().items() if k not in VOLATILE}

    def _settings(self) -> bytes:
        """Digest of config and tokenizer without its vocabulary, which is slow to serialise."""
        tokenizer = self.tokenizer
        added = tokenizer.added_tokens_encoder
        parts = [self._config(), tokenizer.chat_template, tokenizer.special_tokens_map, added]
        text = json.dumps(parts, sort_keys=True, default=str)
        return bytes.fromhex(blake2b_of(text.encode(errors="surrogatepass")))

    def _surroundings(self) -> str:
        """Digest of config and tokenizer in memory."""
        config = self._config()
        backend = self.tokenizer.backend_tokenizer.to_str()
        template = self.tokenizer.chat_template
        special = self.tokenizer.special_tokens_map
        text = json.dumps([config, backend, template, special], sort_keys=True, default=str)
        return sha256_of(text.encode(errors="surrogatepass"))

    def weights_digest(self) -> str:
        """Hexadecimal digest of the weights in memory, with their names and types."""
        return digest_of_tensors(self.hf.state_dict())

    @property
    def device(self) -> torch.device:
        """Device of the embeddings, which takes token ids.

        A model on several devices returns hidden states and logits here; its blocks accept inputs
        from any device.
        """
        device: torch.device = self.hf.get_input_embeddings().weight.device
        return device

    @property
    def devices(self) -> list[str]:
        """Names of all devices with weights, the embeddings' device first."""
        places = [self.device, *(weight.device for weight in self.hf.parameters())]
        return list(dict.fromkeys(str(place) for place in places))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        dtype: torch.dtype = self.hf.dtype
        return dtype

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.hf.config.num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        """Width H of the residual stream."""
        return int(self.hf.config.hidden_size)

    @property
    def context_length(self) -> int:
        """Most tokens of one input; for a context extended by longrope, the original length."""
        return context_length_of(self.hf.config)

    @property
    def attention_implementation(self) -> str:
        """``sdpa`` or ``eager``, whose results differ in the last digits."""
        return str(self.hf.config._attn_implementation)

    @property
    def commit(self) -> str | None:
        """Commit of a hub model's files, whatever the revision's name; None for other models."""
        if self._folder is None or self._folder.parent.name != "snapshots":
            return None
        return self._folder.name

    @property
    def argument(self) -> str:
        """The model as a command's argument, quoted for a shell, for hints that name a command.

        ``FOLDER`` if the model was not loaded by name and must be saved first.
        """
        return "FOLDER" if self.source is None else shlex.quote(self.source)

    @summary
    def __repr__(self) -> str:
        facts = self._facts()
        edits = f", {counted(self.weights.n_applied, 'edit')} applied" * self.weights.is_edited
        return (
            f"LanguageModel {self.name}: {facts['architecture']}, {facts['layers']} layers, width "
            f"{facts['width']}, {facts['parameters']} parameters, {facts['weights']}{edits}"
        )

    @notebook_html
    def _repr_html_(self) -> str:
        """A table for notebooks."""
        rows = {**self._facts(), "applied edits": str(self.weights.n_applied)}
        return html_table(f"LanguageModel {self.name}", list(rows.items()))

    def _facts(self) -> dict[str, str]:
        """What a reader wants to know of a model, without reading its weights."""
        return {
            "architecture": str(self.hf.config.model_type),
            "layers": str(self.n_layers),
            "width": f"{self.hidden_size:,}",
            "parameters": rounded(self.hf.num_parameters()),
            "weights": f"{str(self.dtype).removeprefix('torch.')} on {', '.join(self.devices)}",
        }

    def describe(self) -> dict[str, Any]:
        """The model's entries in a result: name, fingerprint, dtype, device, architecture, ..."""
        return {
            "name": self.name,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": ", ".join(self.devices),
            "attention": self.attention_implementation,
            "architecture": self.hf.config.model_type,
            "n_parameters": self.hf.num_parameters(),
        }

    # ------------------------------------------------------------ parts

    def module(self, path: str) -> nn.Module:
        """The module at a dotted path.

        Raises:
            ModelError: There is none.
        """
        try:
            module: nn.Module = self.hf.get_submodule(path)
        except AttributeError:
            raise ModelError(
                f"{self.name} has no module {path!r}.",
                hint="Check the layer number and the module's name.",
            ) from None
        return module

    def block(self, layer: int) -> nn.Module:
        """Block ``layer``, counted from 0.

        Raises:
            ModelError: The model has fewer layers.
        """
        self.check_layer(layer)
        return self.module(self.architecture.block(layer))

    def check_layer(self, layer: int) -> None:
        """Refuse a layer that the model does not have.

        Raises:
            ModelError: The layer is out of range.
        """
        if not 0 <= layer < self.n_layers:
            raise ModelError(
                f"layer {layer} does not exist: {self.name} has layers 0 to {self.n_layers - 1}.",
                hint="Choose a layer in that range (set editors.NAME.layer).",
            )

    def path(self, layer: int, part: Part) -> str:
        """Dotted path of a part of block ``layer``; the first one if a role has several modules."""
        self.check_layer(layer)
        if part in ("mlp_in", "mlp_out"):
            self.architecture.check_mlp(layer, self.n_layers, self._has)
        where = getattr(self.architecture, part)
        if where is None:
            raise ModelError(
                f"blocks of {self.hf.config.model_type} have no separate module for {part}.",
                hint="Use mlp_out instead.",
            )
        return self.architecture.path(layer, where if isinstance(where, str) else where[0])

    def _has(self, path: str) -> bool:
        try:
            self.hf.get_submodule(path)
        except AttributeError:
            return False
        return True

    # ------------------------------------------------------------ computation

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of final hidden states, (..., H) to (..., vocabulary), in float32.

        Args:
            hidden: States after the final norm, as the base model returns them.
        """
        return self._logits(self.hf.get_output_embeddings()(hidden).to(self.device))

    def log_probability(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Log-probability of one token after each state, in float32.

        Works through the vocabulary in parts: this saves memory, and several small products are
        faster than one large product.

        Args:
            hidden: States after the final norm, (..., H).
            ids: The tokens, (...).

        Returns:
            (...)
        """
        head = self.hf.get_output_embeddings()
        hidden, ids = hidden.to(head.weight.device), ids.to(head.weight.device)
        totals, chosen = [], torch.zeros(ids.shape, device=ids.device)
        for start in range(0, head.weight.shape[0], _LOGITS):
            part = slice(start, start + _LOGITS)
            bias = None if head.bias is None else head.bias[part]
            logits = self._logits(nn.functional.linear(hidden, head.weight[part], bias))
            here = (ids >= start) & (ids < start + logits.shape[-1])
            index = (ids - start).clamp(0, logits.shape[-1] - 1)[..., None]
            chosen = torch.where(here, logits.gather(-1, index)[..., 0], chosen)
            # log_softmax is one fused pass; logsumexp takes five.
            totals.append(logits[..., 0] - torch.log_softmax(logits, dim=-1)[..., 0])
        return (chosen - torch.stack(totals).logsumexp(dim=0)).to(self.device)

    def _logits(self, projected: Tensor) -> Tensor:
        """Logits in float32 from what the head projects: scaled, then capped."""
        logits, scale = projected.float(), self.architecture.logit_scale
        if scale != 1:
            logits = logits * scale
        cap = getattr(self.hf.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def final_hidden(self, hidden: Tensor) -> Tensor:
        """The states that :meth:`head` reads, from those after the last block, (..., H) both."""
        for path in (self.architecture.final_norm, self.architecture.project_out):
            module: Any = operator.attrgetter(path)(self.hf) if path else None
            if module is not None:  # some models are configured without one
                hidden = module(hidden)
        return hidden.to(self.device)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, weights get no gradients; afterwards, gradient flags and modes are restored."""
        flags = [(p, p.requires_grad) for p in self.hf.parameters()]
        modes = [(m, m.training) for m in self.hf.modules()]
        try:
            for parameter, flag in flags:
                if flag:
                    parameter.requires_grad_(False)
            if any(mode for _, mode in modes):
                self.hf.eval()
            yield
        finally:
            for parameter, flag in flags:
                if parameter.requires_grad != flag:
                    parameter.requires_grad_(flag)
            for module, mode in modes:
                if module.training != mode:
                    module.training = mode


# ---------------------------------------------------------------- what can be a LanguageModel


def check_live(hf: object, name: str) -> None:
    """Refuse anything but a plain causal language model of a known family, with its weights.

    Args:
        hf: The user's object.
        name: Its name in messages.

    Raises:
        ModelError: It is something else, is wrapped or quantised, has adapters, or has no values.
    """
    if not isinstance(name, str) or not name:
        raise ModelError(f"the model's name is {name!r}, expected a text.", hint="Give a name.")
    _check_adapters(hf, name)
    if not isinstance(hf, PreTrainedModel):
        raise ModelError(
            f"model {name!r} is {_a(hf)}, expected a causal language model of transformers.",
            hint=_unwrapped(hf),
        )
    _check_quantised(hf, name)
    config = {**hf.config.to_dict(), "model_type": hf.config.model_type}
    family = foreign_family({key: v for key, v in config.items() if key != "auto_map"})
    if family is not None:
        hint = family.hint
        if hf.config.model_type in WRAPPERS:
            hint = "Load it from its folder (editkit.load_model), which loads its text part alone."
        raise ModelError(f"model {name!r} {family.reason}.", hint=hint)
    architecture = architecture_of(hf.config)
    if hf.get_output_embeddings() is None:
        raise ModelError(
            f"model {name!r} is {_a(hf)}, which has no language-model head.",
            hint="Load it with AutoModelForCausalLM.",
        )
    try:
        blocks: Any = hf.get_submodule(architecture.blocks)
        for part in PARTS:
            hf.get_submodule(architecture.adds(0, part))
    except AttributeError as error:
        raise ModelError(
            f"model {name!r} is {_a(hf)} without the modules of {hf.config.model_type} in "
            f"transformers: {error}.",
            hint="Load it with AutoModelForCausalLM, without its own code.",
        ) from None
    if len(blocks) != hf.config.num_hidden_layers:
        raise ModelError(
            f"model {name!r} has {len(blocks)} blocks, but its config says "
            f"{hf.config.num_hidden_layers}.",
            hint="Set model.config.num_hidden_layers to the number of blocks.",
        )
    absent = [path for path, weight in hf.named_parameters() if weight.is_meta]
    if absent:
        raise ModelError(
            f"{len(absent)} weights of {name!r} are not in memory ({absent[0]} first): an edit "
            "needs all of them.",
            hint="Load the model onto devices with room for all its weights.",
        )


def check_tokenizer(tokenizer: object, name: str) -> None:
    """Refuse anything but a fast tokenizer with tokens.

    Raises:
        ModelError: It is slow, empty, or something else.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError(
            f"the tokenizer of {name!r} is {_a(tokenizer)}, expected a tokenizer of transformers.",
            hint="Load it with AutoTokenizer.",
        )
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer of {name!r} is slow ({type(tokenizer).__name__}): it gives no "
            "character offsets.",
            hint="Add a tokenizer.json to the model's folder.",
        )
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ModelError(
            f"the tokenizer of {name!r} has only special tokens: its files are missing.",
            hint="Save the tokenizer that the model was trained with to the model's folder.",
        )


def _check_adapters(hf: object, name: str) -> None:
    """Refuse a model that peft wraps or has put adapters into."""
    wrapped = any(base.__module__.partition(".")[0] == "peft" for base in type(hf).__mro__)
    inside: list[str] = []
    if isinstance(hf, nn.Module):
        inside = [
            path
            for path, module in hf.named_modules()
            if type(module).__module__.partition(".")[0] == "peft"
        ]
    if wrapped:
        raise ModelError(
            f"model {name!r} is a {type(hf).__name__} of peft: editors do not see the weights of "
            "its adapters.",
            hint=_MERGE,
        )
    if inside or getattr(hf, "_hf_peft_config_loaded", False):
        where = f" ({inside[0]} first)" if inside else ""
        raise ModelError(
            f"model {name!r} has peft adapters in its layers{where}: editors do not see their "
            "weights.",
            hint="Merge them first (peft.PeftModel.from_pretrained(base, adapter)"
            ".merge_and_unload()), or load the model without adapters.",
        )


def _check_quantised(hf: PreTrainedModel, name: str) -> None:
    stated = getattr(hf.config, "quantization_config", None)
    wrong = next(
        (
            (path, weight)
            for path, weight in hf.named_parameters()
            if weight.dtype not in _FLOATING or type(weight) is not nn.Parameter
        ),
        None,
    )
    if stated is None and getattr(hf, "hf_quantizer", None) is None and wrong is None:
        return
    where = ""
    if wrong is not None:
        dtype = str(wrong[1].dtype).removeprefix("torch.")
        where = f" ({wrong[0]} is a {type(wrong[1]).__name__} of {dtype})"
    raise ModelError(
        f"model {name!r} is quantised, or its weights are not plain float tensors{where}: an edit "
        "cannot be added to codes.",
        hint="Load the unquantised checkpoint, or dequantise it first: model.dequantize().",
    )


def _unwrapped(hf: object) -> str:
    if hasattr(hf, "_orig_mod"):
        return "Give the model from before torch.compile: model._orig_mod."
    if isinstance(getattr(hf, "module", None), PreTrainedModel):
        return "Give the wrapped model: model.module."
    return "Load it with AutoModelForCausalLM, or by name with editkit.load_model."


def _a(thing: object) -> str:
    return f"a {type(thing).__module__.partition('.')[0]} {type(thing).__name__}"
