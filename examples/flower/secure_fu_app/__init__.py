"""The Flower app of a secure_fu federation."""
