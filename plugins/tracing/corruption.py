"""The corrupted run's eps, which is added to the embeddings of the subject's tokens.

Section 2.1 and appendix B.1 of Meng et al. (2022), first version: h*_i^(0) = h_i^(0) + eps with

    gaussian         eps ~ N(0; nu^2), nu = 3 standard deviations of the subjects' embeddings, or
                     a number
    uniform          eps ~ U(-nu, nu)
    multivariate     eps ~ N(0; C), C the covariance of all embeddings
    student_t        Student's t with that covariance
    substitute       the embeddings of another subject, less those of this one; subjects of another
                     length are not noise, see substitution.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from editkit import ConfigError
from editkit.models import LanguageModel
from editkit_plugins.tracing.config import CausalTracingConfig
from editkit_plugins.tracing.substitution import choose_substitutes
from editkit_plugins.tracing.tokenized_facts import TokenizedFact


def draw_noise(
    model: LanguageModel, fact: TokenizedFact, config: CausalTracingConfig, level: float
) -> tuple[Tensor, Tensor]:
    """Two independent draws of eps from one generator, which starts at the configured seed.

    Args:
        model: The model.
        fact: The fact; its span ``subject`` is corrupted.
        config: The corruption and its parameters.
        level: nu: standard deviation of Gaussian noise, or bound of uniform noise.

    Returns:
        Two tensors (N, subject tokens, H), float32. Substitution is not random: both are the same.

    Raises:
        ConfigError: No substitute has as many tokens as the subject.
    """
    if config.corruption == "substitute":
        difference = _substitutes(model, fact, config)
        return difference, difference
    generator = np.random.RandomState(config.seed)
    shape = (config.samples, fact.subject[1] - fact.subject[0], model.hidden_size)
    first, second = (_noise(model, config, level, generator, shape) for _ in range(2))
    return first, second


def noise_level(
    model: LanguageModel, config: CausalTracingConfig, subjects: Sequence[str]
) -> float:
    """nu: as configured, or a multiple of the standard deviation of the subjects' embeddings."""
    if config.noise_level is not None:
        return config.noise_level
    return config.noise_multiple * embedding_std(model, subjects)


def embedding_std(model: LanguageModel, subjects: Sequence[str]) -> float:
    """Standard deviation over all entries of the subjects' token embeddings.

    Each subject is encoded on its own. Unbiased (ddof 1), as in the published code.
    """
    ids = [token for encoding in model.encode(subjects) for token in encoding.ids]
    return float(_embeddings(model, ids).double().std())


def read_subjects(config: CausalTracingConfig) -> tuple[str, ...]:
    """The subjects in the file ``config.subjects``; none without a file.

    Raises:
        ConfigError: The file cannot be read, or does not hold a list of texts.
    """
    if config.subjects is None:
        return ()
    hint = 'Write a JSON list: ["Big Ben", "Eiffel Tower"].'
    try:
        content = json.loads(config.subjects.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"subjects: {str(config.subjects)!r} cannot be read: {error}.", hint=hint
        ) from None
    if not isinstance(content, list) or not content or not all(isinstance(s, str) for s in content):
        raise ConfigError(
            f"subjects: {str(config.subjects)!r} holds {content!r:.60}, expected a list of texts.",
            hint=hint,
        )
    return tuple(content)


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
    noise = scale * unit @ _root_of_covariance(model).T  # (N, subject tokens, H)
    if config.corruption == "student_t":
        degrees = config.degrees
        chi_squared = generator.chisquare(degrees, size=(*shape[:2], 1))
        noise = noise * np.sqrt((degrees - 2) / chi_squared)
    return _tensor(model, noise)


def _root_of_covariance(model: LanguageModel) -> np.ndarray:
    """R with R R^T = C, the covariance of the whole vocabulary's token embeddings, (H, H)."""
    embeddings = model.module(model.architecture.embedding).get_parameter("weight")
    covariance = np.cov(embeddings.detach().double().cpu().numpy(), rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    root: np.ndarray = vectors * np.sqrt(values.clip(min=0.0))
    return root


def _substitutes(model: LanguageModel, fact: TokenizedFact, config: CausalTracingConfig) -> Tensor:
    """Embeddings of other subjects with as many tokens, less the subject's, (N, tokens, H)."""
    first, end = fact.subject
    rows = [_embeddings(model, each.subject) for each in choose_substitutes(model, fact, config)]
    return torch.stack(rows).float() - _embeddings(model, fact.prompt[first:end]).float()


def embed(model: LanguageModel, ids: Tensor) -> Tensor:
    """Token embeddings of ids (..., tokens): (..., tokens, H)."""
    with torch.no_grad():
        embedded: Tensor = model.module(model.architecture.embedding)(ids)
        return embedded.to(model.device)


def _embeddings(model: LanguageModel, ids: Sequence[int]) -> Tensor:
    """Token embeddings, (tokens, H)."""
    return embed(model, torch.tensor(ids, device=model.device))


def _tensor(model: LanguageModel, values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float().to(model.device)
