"""Figures for people: from data to a picture."""
