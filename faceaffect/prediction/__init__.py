"""From raw pictures and videos to answers: read, find, crop, track, predict, show."""
