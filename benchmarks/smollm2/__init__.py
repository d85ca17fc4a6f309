"""SmolLM2-135M-Instruct: a pretrained model that users install themselves."""
