"""What a dashboard consists of, and how Grafana is given it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import common as models
from grafana_foundation_sdk.models import dashboard as dashboard_models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = dashboard_models.DataSourceRef(type_val="prometheus", uid="${datasource}")

WIDTH = 24
"""Columns of Grafana's grid."""


@dataclass(frozen=True)
class Query:
    """A query of a panel.

    Attributes:
        expression: in Prometheus' language, with Grafana's variables.
        legend: a line's name, with labels as `{{label}}`.
    """

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A panel.

    Attributes:
        title: its name.
        description: what it shows and what to make of it.
        unit: Grafana's name of the unit.
        queries: what it shows.
        kind: lines over time, the last values as numbers, or a histogram over time.
        width: columns, of `WIDTH`.
        logarithmic: whether the axis of values is.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Literal["lines", "numbers", "heatmap"] = "lines"
    width: int = 8
    logarithmic: bool = False


@dataclass(frozen=True)
class Annotation:
    """A mark on the time axis of every panel.

    Attributes:
        name: what has happened.
        expression: has a value at the times at which it has.
        color: Grafana's name of a colour.
    """

    name: str
    expression: str
    color: str


@dataclass(frozen=True)
class Dashboard:
    """A dashboard.

    Attributes:
        uid: the last part of its address, and its file's name.
        title: its name.
        description: a sentence.
        variables: labels that a user chooses from, the first one first.
        source: the series that has these labels.
        rows: panels, by the title of their row.
        annotations: marks on the time axis.
    """

    uid: str
    title: str
    description: str
    variables: tuple[str, ...]
    source: str
    rows: dict[str, tuple[Panel, ...]]
    annotations: tuple[Annotation, ...] = ()

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels."""
        return tuple(panel for row in self.rows.values() for panel in row)


def build(dashboard: Dashboard) -> dashboard_models.Dashboard:
    """The dashboard as Grafana has it."""
    built = (
        builders.Dashboard(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.description)
        .tags(["evo"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(dashboard_models.DashboardCursorSync.CROSSHAIR)
        .with_variable(builders.DatasourceVariable("datasource").type("prometheus"))
        .link(_link_to_ours())
        .link(_link_to_rays())
    )
    for place, name in enumerate(dashboard.variables):
        built.with_variable(_variable(name, dashboard.variables[:place], dashboard.source))
    for annotation in dashboard.annotations:
        built.annotation(
            builders.AnnotationQuery()
            .name(annotation.name)
            .datasource(SOURCE)
            .enable(True)
            .icon_color(annotation.color)
            .expr(annotation.expression)
        )
    for title, panels in dashboard.rows.items():
        built.with_row(builders.Row(title))
        for panel in panels:
            built.with_panel(_PANELS[panel.kind](panel))
    return built.build()


def _variable(name: str, before: tuple[str, ...], source: str) -> builders.QueryVariable:
    """A label's values, of the series that the variables before it choose."""
    chosen = ",".join(f'{label}=~"${label}"' for label in before)
    return (
        builders.QueryVariable(name)
        .label(name)
        .datasource(SOURCE)
        .query({"query": f"label_values({source}{{{chosen}}}, {name})", "refId": name})
        .refresh(dashboard_models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(dashboard_models.VariableOption(text="All", value="$__all"))
    )


def _link_to_ours() -> builders.DashboardLink:
    return (
        builders.DashboardLink("evo")
        .type(dashboard_models.DashboardLinkType.DASHBOARDS)
        .tags(["evo"])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
    )


def _link_to_rays() -> builders.DashboardLink:
    # The address that Ray's own provisioning gives the first of its dashboards.
    return (
        builders.DashboardLink("Ray")
        .type(dashboard_models.DashboardLinkType.LINK)
        .url("/d/rayDefaultDashboard")
        .keep_time(True)
    )


def _lines(panel: Panel) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .unit(panel.unit)
        .span(panel.width)
        .height(8)
        .line_width(2)
        .fill_opacity(0)
        .show_points(models.VisibilityMode.AUTO)
        .legend(_legend())
        .tooltip(common.VizTooltipOptions().mode(models.TooltipDisplayMode.MULTI))
    )
    if panel.logarithmic:
        scale = common.ScaleDistributionConfig().type(models.ScaleDistribution.LOG).log(10)
        built.scale_distribution(scale)
    return _described(built, panel)


def _numbers(panel: Panel) -> stat.Panel:
    options = common.ReduceDataOptions().calcs(["lastNotNull"])
    built = stat.Panel().unit(panel.unit).span(panel.width).height(5).reduce_options(options)
    return _described(built, panel)


def _heatmap(panel: Panel) -> heatmap.Panel:
    color = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Viridis")
    axis = heatmap.YAxisConfig().unit(panel.unit)
    built = heatmap.Panel().span(panel.width).height(8).color(color).y_axis(axis)
    return _described(built.calculate(False), panel)


_PANELS = {"lines": _lines, "numbers": _numbers, "heatmap": _heatmap}


AnyPanel = TypeVar("AnyPanel", timeseries.Panel, stat.Panel, heatmap.Panel)


def _described(built: AnyPanel, panel: Panel) -> AnyPanel:
    built.title(panel.title).description(panel.description).datasource(SOURCE)
    for place, query in enumerate(panel.queries):
        target = (
            prometheus.Dataquery()
            .ref_id(chr(ord("A") + place))
            .expr(query.expression)
            .legend_format(query.legend)
        )
        if panel.kind == "heatmap":
            target.format(PromQueryFormat.HEATMAP)
        built.with_target(target)
    return built


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(models.LegendDisplayMode.LIST)
        .placement(models.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
