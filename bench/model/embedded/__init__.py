"""The embedded tier: a generated language, its tasks, and a tiny model pretrained on it, shipped with the package."""
