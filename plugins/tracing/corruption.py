"""What corrupts a subject: noise, or another subject, added to the embeddings of its tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from editkit import ConfigError
from editkit.models import LanguageModel
from editkit_plugins.tracing.config import CausalTracingConfig
from editkit_plugins.tracing.questions import Question


def embedding_std(model: LanguageModel, subjects: Sequence[str]) -> float:
    """Standard deviation over all entries of the token embeddings of subjects, each encoded alone.

    Unbiased, as in the published code.
    """
    ids = [token for encoding in model.encode(subjects) for token in encoding.ids]
    return float(_embeddings(model, ids).double().std())


def draws(
    model: LanguageModel, question: Question, config: CausalTracingConfig, level: float
) -> tuple[Tensor, Tensor]:
    """Two draws of what is added to the embeddings of the subject's tokens.

    Both are from one generator, started anew at the configured seed.

    Args:
        model: The model.
        question: The fact; ``question.subject`` are the tokens that are corrupted.
        config: The corruption and its numbers.
        level: Standard deviation of Gaussian noise, or bound of uniform noise.

    Returns:
        Two tensors (N, subject tokens, H), float32. Substitution has only one draw: twice the same.

    Raises:
        ConfigError: No substitute has as many tokens as the subject.
    """
    if config.corruption == "substitute":
        swapped = _substituted(model, question, config)
        return swapped, swapped
    generator = np.random.RandomState(config.seed)
    shape = (config.samples, question.subject[1] - question.subject[0], model.hidden_size)
    first, second = (_noise(model, config, level, generator, shape) for _ in range(2))
    return first, second


def noise_level(
    model: LanguageModel, config: CausalTracingConfig, subjects: Sequence[str]
) -> float:
    """The configured level of the noise, or so many standard deviations of subjects' embeddings."""
    if config.noise_level is not None:
        return config.noise_level
    return config.noise_multiple * embedding_std(model, subjects)


def _noise(
    model: LanguageModel,
    config: CausalTracingConfig,
    level: float,
    generator: np.random.RandomState,
    shape: tuple[int, int, int],
) -> Tensor:
    if config.corruption == "uniform":
        return _tensor(model, level * generator.uniform(-1.0, 1.0, shape))
    unit = generator.randn(*shape)
    if config.corruption == "gaussian":
        return _tensor(model, level * unit)
    scale = config.noise_level or 1.0
    noise = scale * unit @ _root_of_covariance(model).T  # (N, n, H)
    if config.corruption == "student_t":
        degrees = config.degrees
        chi_squared = generator.chisquare(degrees, size=(*shape[:2], 1))
        noise = noise * np.sqrt((degrees - 2) / chi_squared)
    return _tensor(model, noise)


def _root_of_covariance(model: LanguageModel) -> np.ndarray:
    """R with R R^T the covariance of the token embeddings of the whole vocabulary, (H, H)."""
    embeddings = model.module(model.architecture.embedding).get_parameter("weight")
    covariance = np.cov(embeddings.detach().double().cpu().numpy(), rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    root: np.ndarray = vectors * np.sqrt(values.clip(min=0.0))
    return root


def _substituted(model: LanguageModel, question: Question, config: CausalTracingConfig) -> Tensor:
    """The embeddings of other subjects of as many tokens, less those of the subject."""
    first, end = question.subject
    own = question.prompt[first:end]
    before, after = question.around
    others: list[tuple[int, ...]] = []
    for name in dict.fromkeys(config.substitutes):
        [encoding] = model.read([before + name + after], chat=question.fact.chat)
        inside = encoding.ids[first : first + len(own)]
        alike = (
            encoding.ids[:first] == question.prompt[:first]
            and encoding.ids[first + len(own) :] == question.prompt[end:]
        )
        if alike and inside != own and inside not in others:
            others.append(inside)
    if not others:
        raise ConfigError(
            f"none of {len(config.substitutes)} substitutes has as many tokens as the subject "
            f"{question.name!r} ({len(own)}) in its prompt.",
            hint="Give more of them: --set substitutes='[Big Ben, Eiffel Tower, ...]'.",
        )
    chosen = np.random.RandomState(config.seed).permutation(len(others))[: config.samples]
    rows = [_embeddings(model, others[i]) for i in chosen]
    return torch.stack(rows).float() - _embeddings(model, own).float()  # (N, n, H)


def _embeddings(model: LanguageModel, ids: Sequence[int]) -> Tensor:
    with torch.no_grad():
        tokens = torch.tensor(ids, device=model.device)
        found: Tensor = model.module(model.architecture.embedding)(tokens)
        return found.to(model.device)


def _tensor(model: LanguageModel, values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float().to(model.device)


def subjects_of(config: CausalTracingConfig) -> tuple[str, ...]:
    """The subjects that the configuration names a file of; none where it names none.

    Raises:
        ConfigError: The file cannot be read, or is no list of texts.
    """
    if config.subjects is None:
        return ()
    try:
        content = json.loads(config.subjects.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"subjects: {str(config.subjects)!r} cannot be read: {error}.",
            hint='Write a JSON list: ["Big Ben", "Eiffel Tower"].',
        ) from None
    if not isinstance(content, list) or not content or not all(isinstance(s, str) for s in content):
        raise ConfigError(
            f"subjects: {str(config.subjects)!r} holds {content!r:.60}, expected a list of texts.",
            hint='Write a JSON list: ["Big Ben", "Eiffel Tower"].',
        )
    return tuple(content)
