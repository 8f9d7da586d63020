"""The pretrained model and its adapters: loading, layers, gradients by hooks, PEFT adapters, trained weights."""
