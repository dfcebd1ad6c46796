"""What every cluster of the lab begins with beside what its API server makes: custom resources, and cluster DNS."""
