"""A sweep in Python, from a file to a plot: run this as a script, or cell by cell in an editor that knows `# %%`."""

# %% A sweep that comes with rmpsweep, made smaller: `changes` takes what follows --set on the command line
import rmpsweep

sweep = rmpsweep.load_sweep("quickstart", changes=["grid.alpha=[0.6, 0.8, 1.0]", "time_steps=[8, 16, 32, 64]"])

# %% What is there to do? Nothing is computed yet
planned = rmpsweep.plan(sweep, "results/example", limit=100)
print(f"{len(planned.plan.trials)} trials, {planned.cells_left:,} predictions to make")


# %% Compute, merge, report. The same call continues an interrupted launch, and does nothing once all is done
def follow(event):
    """Say what a person wants to know."""
    if event.plain()["event"] in ("message", "done", "lost", "quarantined"):
        print(event.plain())


results = rmpsweep.launch(sweep, "results/example", limit=100, inline=True, mlflow="none", on_event=follow)
print(results)

# %% Tables are Arrow tables; those of earlier launches are opened with rmpsweep.Results.open(path)
summary = rmpsweep.Results.open("results/example").summary.to_pandas()
print(summary.pivot_table(index=["reset", "alpha"], columns="time_steps", values="accuracy"))

# %% The best trial of each reset
for reset, best in results.best.items():
    alpha, accuracy = best.setting.alpha, best.final_accuracy
    print(f"{reset}: α = {alpha:g}, {accuracy:.1%} at T = {best.time_steps}, ANN {best.ann_accuracy:.1%}")

# %% Accuracy against latency
import altair as alt  # noqa: E402

chart = alt.Chart(summary).mark_line(point=True).encode(x="time_steps", y="accuracy", color="reset", detail="trial_id")
chart.save("results/example/accuracy.html")
