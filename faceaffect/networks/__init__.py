"""Networks that models share: backbones, where weights come from, adapters, heads, losses."""
