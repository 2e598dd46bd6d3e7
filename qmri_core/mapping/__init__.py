"""From calibrated signals to maps: voxelwise estimate, network, checkpoint, inference."""
