"""Model folders: model.safetensors, config.json and a model card, as the Hugging Face Hub has them; no pickle."""
