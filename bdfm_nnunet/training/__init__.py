"""What keeps long trainings on many processes together: shares, agreement, signals, clocks. Only torch is needed."""
