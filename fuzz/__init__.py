"""Contents that no honest program writes, fed to everything here that reads files of others."""
