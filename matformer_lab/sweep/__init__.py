"""The main job: recipe, jobs, store, executors."""
