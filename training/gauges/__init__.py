"""What a training run is measured by beside its loss: how busy the machine is, and what it draws."""
