"""lora-init-bench: a reproducible comparison of initialisation schemes for low-rank fine-tuning."""

__version__ = "0.1.0"
