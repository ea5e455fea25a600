"""The stages of a build, one file each; they know the rooms, the rooms do not know each other."""
