"""What a desensitized set gives away, measured; and the judges that look for a person in it."""
