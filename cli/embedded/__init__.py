"""The servers that `parley up` brings along: found in installed packages, configured, described as parts."""
