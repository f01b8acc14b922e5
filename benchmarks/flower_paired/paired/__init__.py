"""An app that runs rounds of secure_fu and of Flower's FedAvg in turn."""
