"""What is drawn: people, their heads and clothes, places, motions, and captions that never name who it is."""
