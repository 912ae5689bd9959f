"""One file per training method. The file's name is the method's name; it defines Config and Method."""
