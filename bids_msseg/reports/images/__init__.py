"""PNG figures and the volumes of the viewer."""
