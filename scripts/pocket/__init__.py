"""The text that the pocket model learns from: written here, by rules and a seed; nothing is downloaded."""
