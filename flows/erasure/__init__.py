"""Taking a person out of everything that is kept: who they are, where they are, the proof that they went."""
