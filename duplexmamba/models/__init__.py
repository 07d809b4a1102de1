"""Parts of the model: features, front end, mixers, encoders, connectors, language models."""
