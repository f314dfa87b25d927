"""What is proven: lower bounds on training losses, with evidence that anybody can check again in exact arithmetic."""
