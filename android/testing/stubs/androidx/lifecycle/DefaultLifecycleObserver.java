package androidx.lifecycle;

public interface DefaultLifecycleObserver extends LifecycleObserver {
    default void onStart(LifecycleOwner owner) {}

    default void onStop(LifecycleOwner owner) {}
}
