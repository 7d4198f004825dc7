"""Writes models for programs without Python."""
