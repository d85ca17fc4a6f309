"""Several prompts that express the fact of one request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from editkit import ConfigError, EditRequest
from editkit.editing.generation import sampled_contexts
from editkit.models import LanguageModel
from editkit.prompts import fill
from editkit.storage.resources import path_of
from editkit_plugins.kn.config import KnConfig

_TOP_K = 5

Templates = Mapping[str, Sequence[str]]
"""Prompts with ``{}`` for the subject, by relation."""


def prompts_of(
    model: LanguageModel, request: EditRequest, templates: Templates, config: KnConfig
) -> list[str]:
    """The request's own prompt, and with ``refine`` those of its relation, or sampled contexts."""
    if not config.refine:
        return [request.sentence]
    known = templates.get(request.relation_id or "", ())
    if known:
        sentences = [request.sentence, *(fill(template, request.subject) for template in known)]
        return list(dict.fromkeys(sentences))
    contexts = sampled_contexts(model, [config.contexts], top_k=_TOP_K, seed=config.seed)
    return [request.sentence, *(text + request.sentence for text in contexts)]


def read_templates(config: KnConfig) -> Templates:
    """The templates of the config's file; none where it names no file.

    Raises:
        ConfigError: The file is missing or malformed.
    """
    if config.templates is None:
        return {}
    path = path_of(config.templates)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"templates {config.templates!r} cannot be read: {error}.",
            hint="Set editors.kn.templates to a JSON file, or to 'package:file.json'.",
        ) from None
    well_formed = isinstance(content, dict) and all(
        isinstance(templates, list) and all(isinstance(t, str) and "{}" in t for t in templates)
        for templates in content.values()
    )
    if not well_formed:
        raise ConfigError(
            f"templates {config.templates!r} are no mapping from relations to lists of prompts.",
            hint='Write {"P17": ["{} is located in", ...], ...}, with {} for the subject.',
        )
    return dict(content)
