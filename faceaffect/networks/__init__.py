"""Networks that models share: backbones, where their weights come from, adapters, heads."""
