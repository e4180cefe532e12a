"""What is minimised: distances, the divergence that errors of the weights are expected to cause, distillation."""
