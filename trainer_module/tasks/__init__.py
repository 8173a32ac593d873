"""What a model is asked for: one file a task, with its head, loss, metrics and signatures."""
