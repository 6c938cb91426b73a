"""FaceVeil: recognisers trained on faces nobody can see."""
